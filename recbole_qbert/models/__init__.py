"""Models, one file each; `layers` holds their shared parts."""
