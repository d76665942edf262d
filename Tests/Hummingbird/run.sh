#!/usr/bin/env bash
# Builds the Hummingbird application and tries it from outside: its pages, its login, and the chat on the same port.
#
#   ./Tests/Hummingbird/run.sh
#
# The build takes long, because Hummingbird and all that it depends on are built for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=../../Examples/Support/setup.sh
source Examples/Support/setup.sh
install_missing $build_packages
require_swift

package=Examples/Hummingbird/Application
swift build --package-path "$package"
server=$(swift build --package-path "$package" --show-bin-path)/HummingbirdChat

environment=.build-clients/python
python_environment "$environment" Tests/Clients/requirements.txt
PYTHONDONTWRITEBYTECODE=1 "$environment/bin/python" Tests/Hummingbird/hummingbird_test.py "$server"
