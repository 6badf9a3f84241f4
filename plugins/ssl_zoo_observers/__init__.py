"""The observers that ship with ssl-zoo, one file each."""
