"""The observers of runs that ship with ssl-zoo, one file each."""
