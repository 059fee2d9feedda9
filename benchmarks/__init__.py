"""What measures the figures that the documents quote; each module is one command."""
