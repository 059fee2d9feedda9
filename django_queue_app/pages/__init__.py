"""The pages that a person opens, by what they show."""
