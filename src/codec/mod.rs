//! Wire formats: the ClientHello and HTTP/1 heads and bodies, strictly.
