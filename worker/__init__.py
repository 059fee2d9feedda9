"""The lab's side: pulls requests from the site, segments the series, brings the mask back."""

__version__ = "0.1.0"
