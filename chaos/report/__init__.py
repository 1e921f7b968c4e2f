"""A result for people: in the terminal (`terminal`) and as one page (`page`). Pure functions of the result."""
