# Sourced by the scripts that promise to work on a fresh machine.
#
#   . Examples/Support/setup.sh
#   install_missing libssl-dev zlib1g-dev   # Debian packages; nothing happens if they are there
#   install_program nginx nginx-light       # the package that has a program, if there is no such program
#   python_environment DIRECTORY FILE       # a virtual environment with what a requirements file names
#   require_swift                           # a toolchain cannot be installed from Debian: says where to get one

# What the native transport, permessage-deflate and the Redis broadcaster are compiled against.
build_packages="libssl-dev zlib1g-dev libhiredis-dev"

# The traits that our own builds enable: for all of them the same, so that none has to build anew what another one has built.
swift_traits=${STARLING_SWIFT_TRAITS:-}

# Installs those of the named Debian packages that are missing, and says so. Asks for root only then.
install_missing() {
    missing=""
    if ! command -v dpkg-query >/dev/null; then
        echo "Not a Debian system: expecting the counterparts of these packages to be installed: $*" >&2
        return 0
    fi
    for package in "$@"; do
        case "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)" in
            installed) ;;
            *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "Missing Debian packages:$missing. Install them as root: apt-get install$missing" >&2
            return 1
        fi
        as_root=sudo
    fi
    echo "Installing Debian packages:$missing" >&2
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

install_program() {
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || install_missing "$2"
}

# Made anew only when the requirements have changed.
python_environment() {
    install_program python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || install_missing python3-venv
    cmp -s "$2" "$1/requirements.txt" && return 0
    python3 -m venv --clear "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    cp "$2" "$1/requirements.txt"
}

require_swift() {
    command -v swift >/dev/null && return 0
    echo "No Swift toolchain found. Install Swift 6.2 or later: https://www.swift.org/install" >&2
    return 1
}
