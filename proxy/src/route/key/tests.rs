//! Terms and the keys that they stand for.
