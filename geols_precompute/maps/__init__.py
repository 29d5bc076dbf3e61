"""Maps of one case in memory: seeds, geodesic distances, decay, modalities, quantisation."""
