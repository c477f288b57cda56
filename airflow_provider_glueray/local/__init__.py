"""Glue for Ray on this machine: a Glue endpoint on loopback that runs every job on a real Ray cluster."""
