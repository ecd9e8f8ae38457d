//! The Unix admin socket, health, readiness and metrics.
