"""Hardware: what it can do at best (profile, roofline), what it does (calibration), and mappers over both."""
