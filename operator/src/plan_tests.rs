//! Plans from worlds made by hand.
