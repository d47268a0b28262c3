"""From one plan to the next: the difference, its effect on devices in words, and the record of why it was made."""
