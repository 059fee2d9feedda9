"""The site's side: the queue of segmentation requests and everything that answers for it."""

__version__ = "0.1.0"
