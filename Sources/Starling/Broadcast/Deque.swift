/// An array that gives up elements at its front without moving the rest each time.
package struct Deque<Element> {
    private var storage: [Element?] = []
    private var start = 0

    package init() {}

    package var count: Int {
        self.storage.count - self.start
    }

    package var first: Element? {
        self.start < self.storage.count ? self.storage[self.start] : nil
    }

    package mutating func append(_ element: Element) {
        self.storage.append(element)
    }

    package mutating func removeFirst() -> Element {
        guard let element = self.first else { preconditionFailure("an element was taken of none") }
        self.storage[self.start] = nil
        self.start += 1
        if self.start > 32, self.start > self.storage.count / 2 {
            self.storage.removeFirst(self.start)
            self.start = 0
        }
        return element
    }

    package var isEmpty: Bool {
        self.start == self.storage.count
    }

    package func elements(from index: Int, countMax: Int) -> [Element] {
        self.storage[self.start...].dropFirst(index).prefix(max(0, countMax)).compactMap { $0 }
    }
}
