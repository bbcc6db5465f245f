"""Set-up, tests and demo for the shell, and older names of `sfpp_client`."""
