"""The vision tasks that ship with ssl-zoo, one file each."""
