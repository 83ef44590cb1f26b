"""`python -m gateway.cli`: the same as the command `thalamus`."""

from . import main

if __name__ == "__main__":
    main()
