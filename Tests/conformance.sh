#!/usr/bin/env bash
# Runs the Autobahn test suite against Echo, in plain and over TLS, and against our client; all of it on the native transport
# and on SwiftNIO.
#
#   ./Tests/conformance.sh          all of 1-7, 9 and 10, and a choice of 12 and 13; of those two on SwiftNIO
#   ./Tests/conformance.sh --full   all of 12 and 13 too; takes a quarter of an hour more
#
# No case is excluded. Needs a CPython 2.7, on which the suite runs.
set -euo pipefail
cd "$(dirname "$0")/.."
# As in Tests/run.sh.
export STARLING_SWIFT_TRAITS="--traits Tracing --scratch-path .build-release"
nio_traits="--traits NIO,Tracing"
# shellcheck source=../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages openssl
require_swift

folder=$PWD/.build-conformance
requirements=$PWD/Tests/Conformance/requirements-suite.txt
tools=$PWD/Tests/Conformance/requirements-tools.txt

case "${1:-}" in
    "")
        # Each by its name: `12.*.1` would take 12.1.10 to 12.1.18 too, which are nine in ten of the time of all of 12.
        extra='"12.1.1","12.1.6","12.2.1","12.3.1","12.3.5","12.4.1","12.5.1"'
        extra+=',"13.1.2","13.2.2","13.3.2","13.3.5","13.4.2","13.5.2","13.6.2","13.7.2","13.7.7"' plain_min=317
        nio_extra='"12.1.1","13.1.1"' nio_min=303
        ;;
    --full)
        extra='"12.*","13.*"' plain_min=517
        nio_extra=$extra nio_min=$plain_min
        ;;
    *)
        echo "usage: $0 [--full]" >&2
        exit 2
        ;;
esac

find_python2() {
    local candidate
    for candidate in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null && echo "$candidate" && return
    done
    echo "$0: no CPython 2.7 found; install one, for example with: pyenv install 2.7.18" >&2
    return 1
}

# The suite's environment, made once for each version of the requirements.
environment=$folder/suite-$(cat "$requirements" "$tools" | sha256sum | cut -c 1-12)
if [[ ! -e $environment/complete ]]; then
    echo "making the environment of the Autobahn test suite"
    python2=$(find_python2)
    mkdir -p "$folder"
    rm -rf "$environment" "$folder/tools"
    python3 -m venv "$folder/tools" || { install_missing python3-venv && python3 -m venv "$folder/tools"; }
    "$folder/tools/bin/pip" install --quiet --disable-pip-version-check --requirement "$tools"
    "$folder/tools/bin/virtualenv" --quiet --python "$(command -v "$python2")" --no-periodic-update "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    touch "$environment/complete"
fi

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -keyout "$folder/key.pem" -out "$folder/certificate.pem" 2>/dev/null

swift build $swift_traits -c release --product Echo
swift build $swift_traits -c release --product ConformanceClient
release=$(swift build $swift_traits -c release --show-bin-path)
# With SwiftNIO as the tests have it, which are not optimised: the cases do not measure, and SwiftNIO takes minutes to build.
swift build $nio_traits --product Echo
swift build $nio_traits --product ConformanceClient
debug=$(swift build $nio_traits --show-bin-path)
server=$release/Echo
client=$release/ConformanceClient

# Runs the cases against one server of our own, and checks the report.
run() {
    local name=$1 scheme=$2 cases=$3 cases_min=$4
    shift 4
    local run_folder=$folder/$name
    rm -rf "$run_folder"
    mkdir -p "$run_folder"
    # The limits are what the cases ask for: 16 MiB in 64-byte fragments.
    "$server" --host 127.0.0.1 --port 0 --log-level warning --max-message 16777216 --max-fragments 262144 "$@" \
        >"$run_folder/server.log" 2>&1 &
    server_id=$!
    trap 'kill "$server_id" 2>/dev/null || true' EXIT
    local address="" attempt
    for attempt in $(seq 200); do
        address=$(sed -n 's/^listening on //p' "$run_folder/server.log")
        [[ -n $address ]] && break
        kill -0 "$server_id" 2>/dev/null || break
        sleep 0.05
    done
    [[ -n $address ]] || { echo "the server did not start:" >&2; cat "$run_folder/server.log" >&2; return 1; }
    cat >"$run_folder/spec.json" <<SPEC
{"outdir": "./reports", "servers": [{"agent": "$name", "url": "$scheme://$address"}],
 "cases": [$cases], "exclude-cases": [], "exclude-agent-cases": {}}
SPEC
    (cd "$run_folder" && timeout 1500 "$environment/bin/wstest" -m fuzzingclient -s spec.json >client.log 2>&1) ||
        { tail -5 "$run_folder/client.log" >&2; return 1; }
    echo "Autobahn, $name:"
    python3 Tests/Conformance/check.py "$run_folder/reports" "$name" "$cases_min"
    kill "$server_id"
    wait "$server_id" || true
    trap - EXIT
}

# Runs the cases of the suite's own server against our client, and checks the report.
run_client() {
    local name=$1 cases=$2 cases_min=$3
    shift 3
    local run_folder=$folder/$name
    rm -rf "$run_folder"
    mkdir -p "$run_folder"
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat >"$run_folder/spec.json" <<SPEC
{"outdir": "./reports", "url": "ws://127.0.0.1:$port",
 "cases": [$cases], "exclude-cases": [], "exclude-agent-cases": {}}
SPEC
    (cd "$run_folder" && exec "$environment/bin/wstest" -m fuzzingserver -s spec.json >server.log 2>&1) &
    server_id=$!
    trap 'kill "$server_id" 2>/dev/null || true' EXIT
    local attempt
    for attempt in $(seq 200); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
        kill -0 "$server_id" 2>/dev/null || break
        sleep 0.05
    done
    timeout 1500 "$client" --server "ws://127.0.0.1:$port" --agent "$name" "$@" >"$run_folder/client.log" 2>&1 ||
        { tail -n 5 "$run_folder/server.log" "$run_folder/client.log" >&2; return 1; }
    echo "Autobahn, $name:"
    python3 Tests/Conformance/check.py "$run_folder/reports" "$name" "$cases_min"
    kill "$server_id"
    wait "$server_id" || true
    trap - EXIT
}

standard='"1.*","2.*","3.*","4.*","5.*","6.*","7.*","9.*","10.*"'
run plain ws "$standard,$extra" "$plain_min"
run tls wss "$standard,\"12.1.1\",\"13.1.1\"" 303 --tls-cert "$folder/certificate.pem" --tls-key "$folder/key.pem"
run_client client "$standard,$extra" "$plain_min"
server=$debug/Echo
client=$debug/ConformanceClient
run nio ws "$standard,$nio_extra" "$nio_min" --transport nio
run nio-tls wss "$standard,\"12.1.1\",\"13.1.1\"" 303 --transport nio \
    --tls-cert "$folder/certificate.pem" --tls-key "$folder/key.pem"
run_client nio-client "$standard,$nio_extra" "$nio_min" --nio
