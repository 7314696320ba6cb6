"""The command line: each command imports what it needs when it runs, and calls one function of the library."""
