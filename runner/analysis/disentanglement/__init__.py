"""How far identity and clothing came apart in a finished run of BDAM, measured on drawn people."""
