"""``python -m greenpea`` is the command line as well."""

from greenpea.cli import main

if __name__ == "__main__":  # processes that train beside this one import it without running it
    main()
