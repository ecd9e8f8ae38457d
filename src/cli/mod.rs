//! The verbs a person types, and what they print.
