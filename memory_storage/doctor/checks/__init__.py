"""The checks of the doctor, one module per kind of damage."""
