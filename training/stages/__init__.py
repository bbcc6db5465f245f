"""The stages of training, one file each; `training.__main__` lists them."""
