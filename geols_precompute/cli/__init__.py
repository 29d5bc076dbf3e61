"""The commands geols-precompute and geols-store."""
