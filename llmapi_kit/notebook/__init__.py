"""What appears in a cell, and what a notebook needs around it. Works outside of one too."""
