"""Pages of studies: the common page, and one module for each kind of study that says what its cells mean."""
