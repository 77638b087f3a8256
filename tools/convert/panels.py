"""The panels of `mixstream convert --help`, in their order; each option is in one."""

from cyclopts import Group

SOURCES = Group("Sources", sort_key=2)
DOCUMENTS = Group("Documents", sort_key=3)
ROWS = Group("Tokens and rows", sort_key=4)
OUTPUT = Group("Output", sort_key=5)
MACHINES = Group("Machines", sort_key=6)
