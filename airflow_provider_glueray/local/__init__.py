"""Glue for Ray on this machine: a Glue endpoint on loopback which runs every job on a real Ray cluster."""
