# Shell functions that the scripts with a Python environment share: Tests/conformance.sh and Tests/Clients/run.sh.
# Sourced by bash with `set -euo pipefail`.

# Says what went wrong on standard error and ends the script.
fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Installs a Debian package, or says what to install where that is not possible.
install_package() {
    local package=$1 purpose=$2
    command -v apt-get > /dev/null || fail "install $package ($purpose)"
    [[ $(id -u) == 0 ]] || fail "install $package ($purpose): sudo apt-get install $package"
    echo "installing the Debian package $package ($purpose)"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" > /dev/null \
        || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" > /dev/null; } \
        || fail "could not install $package"
}

# Prints the path of a CPython 3.11 or later that can make virtual environments.
#
# A name on the PATH may be a shim that runs nothing, so each candidate has to prove itself.
find_python3() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3; do
        "$candidate" -c 'import sys, venv, ensurepip, ssl; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
            && "$candidate" -c 'import sys; print(sys.executable)' && return
    done
    return 1
}

# As find_python3; installs Debian's where there is none.
require_python3() {
    find_python3 && return
    install_package python3-venv "a Python 3 that makes virtual environments" >&2
    find_python3 || fail "no Python 3.11 or later that can make virtual environments"
}

# A short name for the contents of some files and the words on standard input.
content_key() {
    cat "$@" - | sha256sum | cut -c 1-12
}

# Calls a function to make an environment in a folder, unless it is there and complete.
#
# environment_once FOLDER FUNCTION [ARGUMENT...]: calls FUNCTION FOLDER ARGUMENT...; two scripts at once make it once.
environment_once() {
    local folder=$1 make=$2
    shift 2
    mkdir -p "$(dirname "$folder")"
    (
        flock 9
        if [[ ! -e $folder/complete ]]; then
            rm -rf "$folder"
            "$make" "$folder" "$@"
            touch "$folder/complete"
        fi
    ) 9> "$folder.lock"
}

# Asks the child with this process id to end, and makes it end after 15 seconds.
stop_child() {
    local pid=$1 deadline=$((SECONDS + 15))
    kill -TERM "$pid" 2> /dev/null || return 0
    while kill -0 "$pid" 2> /dev/null; do
        if ((SECONDS >= deadline)); then
            kill -KILL "$pid" 2> /dev/null || true
            break
        fi
        sleep 0.05
    done
    wait "$pid" 2> /dev/null || true
}
