//! One connection from accept to close: one file for each step.
