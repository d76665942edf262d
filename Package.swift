// swift-tools-version: 6.2
import PackageDescription

// Our own checks set this: a warning in our targets then fails the build. A user's build never sees it.
let warningsAreErrors = Context.environment["STARLING_WARNINGS_AS_ERRORS"] == "1"

// `Tests/fuzz.sh` sets this. The flags that libFuzzer needs would make the package unusable as a dependency.
let isFuzzing = Context.environment["STARLING_FUZZ"] == "1"

let settings: [SwiftSetting] =
    [
        .swiftLanguageMode(.v6),
        .strictMemorySafety(),
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
        .enableExperimentalFeature("Lifetimes"),
    ] + (warningsAreErrors ? [.treatAllWarnings(as: .error)] : [])
    + (isFuzzing ? [.unsafeFlags(["-sanitize=fuzzer,address"])] : [])

/// What tests of the trait `Tracing` need.
let tracingForTests: [Target.Dependency] = ["Tracing", "InMemoryTracing"].map {
    .product(name: $0, package: "swift-distributed-tracing", condition: .when(traits: ["Tracing"]))
}
let nio = TargetDependencyCondition.when(traits: ["NIO"])

let fuzzers: [Target] =
    isFuzzing
    ? [
        .target(name: "CFuzzer", path: "Tests/Fuzz/CFuzzer"),
        .executableTarget(
            name: "FuzzRunner",
            dependencies: ["FuzzTargets", "CFuzzer"],
            path: "Tests/Fuzz/Runner",
            swiftSettings: settings + [.unsafeFlags(["-parse-as-library"])],
            linkerSettings: [.unsafeFlags(["-sanitize=fuzzer,address", "-use-ld=lld"])]
        ),
    ] : []

let package = Package(
    name: "starling",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "StarlingCore", targets: ["StarlingCore"]),
        .library(name: "StarlingDeflate", targets: ["StarlingDeflate"]),
        .library(name: "Starling", targets: ["Starling"]),
        .library(name: "StarlingNative", targets: ["StarlingNative"]),
        .library(name: "StarlingNIO", targets: ["StarlingNIO"]),
        .library(name: "StarlingRedis", targets: ["StarlingRedis"]),
        .library(name: "StarlingTesting", targets: ["StarlingTesting"]),
        .library(name: "StarlingTopics", targets: ["StarlingTopics"]),
    ],
    traits: [
        .trait(
            name: "NIO",
            description: "StarlingNIO: who does not enable it resolves and builds no SwiftNIO."
        ),
        .trait(name: "Tracing", description: "Spans for upgrades, publications and their delivery."),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0", traits: []),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        // With the trait `Tracing` alone.
        .package(url: "https://github.com/apple/swift-distributed-tracing", from: "1.7.0"),
        // Behind the trait `NIO`.
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.0"),
        // Examples and benchmarks only: no library product reaches it, so that no user resolves it.
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    ],
    targets: [
        // RFC 6455 and the negotiation of RFC 7692 as values.
        .target(
            name: "StarlingCore",
            dependencies: [.product(name: "HTTPTypes", package: "swift-http-types")],
            swiftSettings: settings
        ),

        // permessage-deflate on zlib.
        .systemLibrary(name: "CZlib", providers: [.apt(["zlib1g-dev"])]),
        .target(name: "StarlingDeflate", dependencies: ["StarlingCore", "CZlib"], swiftSettings: settings),

        // Endpoint, connection, server, broadcaster, registry.
        .target(
            name: "Starling",
            dependencies: [
                "StarlingCore",
                "StarlingDeflate",
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(
                    name: "Tracing",
                    package: "swift-distributed-tracing",
                    condition: .when(traits: ["Tracing"])
                ),
            ],
            resources: [
                .embedInCode("Observability/Page/status.html"), .embedInCode("Observability/Page/status.css"),
                .embedInCode("Observability/Page/status.js"),
            ],
            swiftSettings: settings
        ),

        // Linux event loops and TLS with OpenSSL.
        .target(name: "CStarlingLinux"),
        .target(
            name: "COpenSSL",
            linkerSettings: [
                .linkedLibrary("ssl", .when(platforms: [.linux])),
                .linkedLibrary("crypto", .when(platforms: [.linux])),
            ]
        ),
        .target(
            name: "StarlingNative",
            dependencies: [
                "Starling", "CStarlingLinux", "COpenSSL", .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: settings
        ),

        // The same on SwiftNIO. Without the trait it is empty, and its dependencies are not even resolved.
        .target(
            name: "StarlingNIO",
            dependencies: [
                "Starling", "StarlingCore",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "NIOCore", package: "swift-nio", condition: nio),
                .product(name: "NIOPosix", package: "swift-nio", condition: nio),
                .product(name: "NIOHTTP1", package: "swift-nio", condition: nio),
                .product(name: "NIOTLS", package: "swift-nio", condition: nio),
                .product(name: "NIOSSL", package: "swift-nio-ssl", condition: nio),
            ],
            swiftSettings: settings
        ),

        // Publications between nodes by way of Redis.
        .target(
            name: "CHiredis",
            linkerSettings: [.linkedLibrary("hiredis")]
        ),
        .target(
            name: "StarlingRedis",
            dependencies: [
                "Starling", "StarlingCore", "CHiredis", .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: settings
        ),

        // Typed topics over the wire: the subprotocol starling.v1.json, and a client that comes back.
        .target(
            name: "StarlingTopics",
            dependencies: [
                "Starling", "StarlingCore",
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            exclude: ["JavaScript/starling.js", "JavaScript/starling.d.ts"],
            resources: [.embedInCode("JavaScript/starling.min.js")],
            swiftSettings: settings
        ),

        // What tests are written with: ours and a user's.
        .target(
            name: "StarlingTesting",
            dependencies: [
                "Starling", "StarlingCore", .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            swiftSettings: settings
        ),

        .target(
            name: "ExampleSupport",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative",
                .target(name: "StarlingNIO", condition: nio),
                .product(name: "NIOPosix", package: "swift-nio", condition: nio),
                .product(name: "NIOSSL", package: "swift-nio-ssl", condition: nio),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            path: "Examples/Support",
            exclude: ["setup.sh"],
            swiftSettings: settings
        ),
        .executableTarget(
            name: "Echo",
            dependencies: [
                "Starling", "ExampleSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Examples/Echo",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "EchoCallback",
            dependencies: [
                "Starling", "StarlingCore", "ExampleSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Examples/EchoCallback",
            swiftSettings: settings
        ),
        .target(
            name: "ChatTopics",
            dependencies: ["StarlingTopics"],
            path: "Examples/ChatTopics",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "ChatClient",
            dependencies: [
                "ChatTopics", "Starling", "StarlingNative", "StarlingTopics",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Examples/ChatClient",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "Chat",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative", "StarlingRedis", "StarlingTopics", "ChatTopics",
                "ExampleSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            path: "Examples/Chat",
            exclude: ["PROTOCOL.md"],
            resources: [
                .embedInCode("Page/chat.html"), .embedInCode("Page/chat.css"), .embedInCode("Page/chat.js"),
            ],
            swiftSettings: settings
        ),

        .target(
            name: "FileBroadcaster",
            dependencies: ["Starling"],
            path: "Examples/FileBroadcaster",
            swiftSettings: settings
        ),
        .testTarget(
            name: "ExampleTests",
            dependencies: [
                "FileBroadcaster", "Starling", "StarlingTesting",
                .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            swiftSettings: settings
        ),

        // The Swift code of the documentation. `Documentation/build.sh` sees that text and code are the same.
        .target(
            name: "Snippets",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative", "StarlingRedis", "StarlingTesting",
                "StarlingTopics",
                .target(name: "StarlingNIO", condition: nio),
                .product(name: "NIOCore", package: "swift-nio", condition: nio),
                .product(name: "NIOHTTP1", package: "swift-nio", condition: nio),
                .product(name: "NIOPosix", package: "swift-nio", condition: nio),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            path: "Documentation/Snippets",
            swiftSettings: settings
        ),

        // What our own tests have in common.
        .target(name: "CAllocationCounter", path: "Tests/Support/AllocationCounter"),
        .target(
            name: "TestSupport",
            dependencies: ["CAllocationCounter", "Starling"],
            path: "Tests/Support/TestSupport",
            swiftSettings: settings
        ),

        .testTarget(
            name: "StarlingCoreTests",
            dependencies: [
                "StarlingCore", "TestSupport", .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            swiftSettings: settings
        ),
        .testTarget(
            name: "StarlingDeflateTests",
            dependencies: ["StarlingCore", "StarlingDeflate"],
            swiftSettings: settings
        ),
        .executableTarget(name: "BenchmarkFloor", path: "Benchmarks/Floor"),
        .executableTarget(
            name: "LoadGenerator",
            path: "Benchmarks/LoadGenerator",
            linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto"), .linkedLibrary("z")]
        ),
        .executableTarget(
            name: "BenchmarkServer",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative", "StarlingRedis",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            path: "Benchmarks/Server",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "MillionServer",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative", "StarlingRedis",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            path: "Benchmarks/Million/Server",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "RedisBenchmark",
            dependencies: [
                "Starling", "StarlingNative", "StarlingRedis",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Benchmarks/Redis",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "Benchmarks",
            dependencies: [
                "BenchmarkFloor", "LoadGenerator", "BenchmarkServer",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Benchmarks/Runner",
            swiftSettings: settings
        ),

        .testTarget(
            name: "StarlingTests",
            dependencies: [
                "Starling", "StarlingCore", "StarlingDeflate", "StarlingTesting", "TestSupport",
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
            ] + tracingForTests,
            swiftSettings: settings
        ),
        .testTarget(
            name: "StarlingTestingTests",
            dependencies: ["Starling", "StarlingCore", "StarlingTesting", "StarlingTopics"],
            swiftSettings: settings
        ),
        .executableTarget(
            name: "ConformanceClient",
            dependencies: [
                "Starling", "StarlingNative", .target(name: "StarlingNIO", condition: nio),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Tests/Conformance/Client",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "ClientChecks",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            path: "Tests/Clients/Checks",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "PressureServer",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            path: "Tests/Pressure/Server",
            swiftSettings: settings
        ),
        .executableTarget(name: "PressureCrowd", path: "Tests/Pressure/Crowd"),
        .executableTarget(
            name: "TopicServer",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative", "StarlingRedis", "StarlingTopics",
                "ExampleSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            path: "Tests/JavaScript/Server",
            swiftSettings: settings
        ),
        .executableTarget(name: "StormClient", path: "Tests/Overload/Client"),
        .executableTarget(
            name: "RollingClient",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative", "StarlingTopics",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            path: "Tests/Deploys/Client",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "SoakClient",
            dependencies: [
                "Starling", "StarlingNative", "StarlingTopics", "ExampleSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Tests/Soak/Client",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "RestartServer",
            dependencies: [
                "Starling", "StarlingCore", "StarlingDeflate", "StarlingNative", "StarlingRedis",
                "ExampleSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Tests/Handoff/Server",
            swiftSettings: settings
        ),
        .executableTarget(
            name: "RestartLoad",
            path: "Tests/Handoff/Load",
            linkerSettings: [.linkedLibrary("z")]
        ),
        .testTarget(
            name: "StarlingNativeTests",
            dependencies: [
                "CStarlingLinux", "Starling", "StarlingCore", "StarlingNative", "StarlingTesting",
                "TestSupport",
                .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            swiftSettings: settings
        ),

        .testTarget(
            name: "StarlingTopicsTests",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNative", "StarlingTesting", "StarlingTopics",
                "TestSupport",
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: settings
        ),

        .testTarget(
            name: "StarlingNIOTests",
            dependencies: [
                "Starling", "StarlingCore", "StarlingNIO", "StarlingTesting", "TestSupport",
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "NIOCore", package: "swift-nio", condition: nio),
                .product(name: "NIOPosix", package: "swift-nio", condition: nio),
                .product(name: "NIOHTTP1", package: "swift-nio", condition: nio),
                .product(name: "NIOSSL", package: "swift-nio-ssl", condition: nio),
            ],
            swiftSettings: settings
        ),

        .testTarget(
            name: "StarlingRedisTests",
            dependencies: ["Starling", "StarlingNative", "StarlingRedis", "StarlingTesting", "TestSupport"]
                + tracingForTests,
            swiftSettings: settings
        ),

        // What must hold whatever strangers send: for libFuzzer, and for the tests that replay its seeds.
        .target(
            name: "FuzzTargets",
            dependencies: [
                "Starling", "StarlingCore", "StarlingDeflate", "StarlingTopics",
                .product(name: "HTTPTypes", package: "swift-http-types"),
            ],
            path: "Tests/Fuzz/Targets",
            swiftSettings: settings
        ),
        .testTarget(
            name: "FuzzSeedTests",
            dependencies: ["FuzzTargets"],
            path: "Tests/Fuzz/Replay",
            swiftSettings: settings
        ),
    ] + fuzzers
)

// `Tests/run.sh` sets this to the names of test targets that are to be built without all the others, or to `all`: every test target,
// without what no test needs.
if let names = Context.environment["STARLING_TEST_TARGETS"] {
    var wanted: Set<String> = []
    func want(_ name: String) {
        guard wanted.insert(name).inserted, let target = package.targets.first(where: { $0.name == name })
        else { return }
        for dependency in target.dependencies {
            switch dependency {
            case .targetItem(let name, _), .byNameItem(let name, _): want(name)
            default: break
            }
        }
    }
    let tests =
        names == "all"
        ? package.targets.filter { $0.type == .test }.map(\.name)
        : names.split(separator: " ").map(String.init)
    tests.forEach { want($0) }
    package.targets.removeAll { !wanted.contains($0.name) }
    package.products = []
}
