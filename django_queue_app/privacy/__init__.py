"""What keeps the patient's identity inside the hospital (CONTRACT, section 2.4)."""
