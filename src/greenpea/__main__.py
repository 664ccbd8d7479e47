"""``python -m greenpea`` is the command line as well."""

from greenpea.cli import main

main()
