"""`python -m geols_train` is geols-train."""

from geols_train.cli import train

if __name__ == "__main__":
    train(prog_name="geols-train")
