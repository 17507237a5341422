"""The models, one file each; `layers` holds what they share."""
