// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that Hummingbird never reaches the dependency graph of a user of Starling. Its folder has another name
// than the package that it depends on, which SwiftPM would otherwise take for this one.
let package = Package(
    name: "HummingbirdChat",
    platforms: [.macOS(.v15)],
    dependencies: [
        .package(name: "starling", path: "../../..", traits: ["NIO"]),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.35.0"),
    ],
    targets: [
        .executableTarget(
            name: "HummingbirdChat",
            dependencies: [
                .product(name: "Starling", package: "starling"),
                .product(name: "StarlingNIO", package: "starling"),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTPTypes", package: "swift-nio-extras"),
                .product(name: "NIOHTTPTypesHTTP1", package: "swift-nio-extras"),
            ]
        )
    ]
)
