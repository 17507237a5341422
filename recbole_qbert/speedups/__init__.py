"""Exact accelerations of RecBole's own models; `trim_padding: False` disables them."""
