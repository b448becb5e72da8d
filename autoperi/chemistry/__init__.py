"""What is known of the elements in compounds: oxidation states, descriptors, properties."""
