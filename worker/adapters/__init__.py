"""What touches the outside: HTTP, DICOM files, the network's runtime."""
