"""One module a command of the command line; `imagecap.main` is their table."""
