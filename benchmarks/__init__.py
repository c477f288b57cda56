"""`make bench`: what a user pays for us, as ratios measured in one run beside a peer. Nothing here is a test."""
