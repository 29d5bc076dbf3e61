"""`python -m geols_precompute` is geols-precompute."""

from geols_precompute.cli.precompute import precompute

if __name__ == "__main__":
    precompute(prog_name="geols-precompute")
