# What tools/demo and tools/test share: find cargo, install what is missing, know how to be root. Sourced, POSIX sh.

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# Words that run a command as root: nothing when we are, `sudo` when it is there.
as_root=
if [ "$(id -u)" -ne 0 ] && has sudo; then as_root="sudo"; fi

# `sudo` replaces PATH and HOME, and with them hides a toolchain that lives in the caller's home.
find_cargo() {
    caller_home=
    if [ -n "${SUDO_USER:-}" ]; then caller_home=$(getent passwd "$SUDO_USER" | cut -d: -f6); fi
    if ! has cargo; then
        for dir in "${CARGO_HOME:-$HOME/.cargo}/bin" "${caller_home:+$caller_home/.cargo/bin}" /usr/local/cargo/bin; do
            if [ -n "$dir" ] && [ -x "$dir/cargo" ]; then
                PATH="$dir:$PATH"
                export PATH
                break
            fi
        done
    fi
    has cargo || die "no cargo found in PATH, ~/.cargo/bin or /usr/local/cargo/bin. Install Rust 1.88 or newer: https://rustup.rs"
    # A rustup proxy looks for its toolchains below HOME, which is root's now; point it to where they are.
    case $(command -v cargo) in
    "$caller_home"/.cargo/bin/cargo)
        if [ -z "${RUSTUP_HOME:-}" ] && [ -d "$caller_home/.rustup" ]; then export RUSTUP_HOME="$caller_home/.rustup"; fi ;;
    /usr/local/cargo/bin/cargo)
        if [ -z "${RUSTUP_HOME:-}" ] && [ -d /usr/local/rustup ]; then export RUSTUP_HOME=/usr/local/rustup; fi ;;
    esac
    cargo --version >/dev/null 2>&1 || die "$(command -v cargo) does not run: $(cargo --version 2>&1 | head -n 1)"
    say "$(cargo --version), $(command -v cargo)"
}

# need PACKAGES TEST...: when the test fails, the packages are noted for install_missing.
missing=
need() {
    packages=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $packages"
}

need_to_build() {
    need "gcc libc6-dev" has cc
    need "libc6-dev" test -e /usr/include/stdio.h
    need "pkg-config" has pkg-config
    need "libnftnl-dev" pkg-config --exists libnftnl
    need "libmnl-dev" pkg-config --exists libmnl
}

install_missing() {
    if [ -z "$missing" ]; then return 0; fi
    has apt-get || die "missing:$missing. Install them with this system's package manager (the names are Debian's)."
    if [ "$(id -u)" -ne 0 ] && [ -z "$as_root" ]; then die "missing:$missing. Run this as root, or install sudo."; fi
    say "installing:$missing"
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of packages
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    missing=
}

# What root built in somebody's checkout is given to that somebody, or his next build could not write there.
give_back_target() {
    if [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_UID:-}" ]; then
        chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "${CARGO_TARGET_DIR:-target}" 2>/dev/null || true
    fi
}
