"""The mesh and every partition rule, in one table; runs over several hosts."""
