"""How results look: looks of policies, tables, figures and pages, in one place each."""
