"""A run: from a folder of labelled volumes to the two stores, in this process or on a Dask cluster."""
