// Boost.Beast: `beast-peer [--certificate FILE --key FILE] [--deflate]`, says `listening on PORT`.
//
// `/echo` and `/idle` echo; what arrives at `/publish/T` goes to everybody at `/subscribe/T`. One io_context, one
// thread, and its executor as a type, which saves the calls by way of `any_io_executor`.

#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <deque>
#include <iostream>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using boost::system::error_code;
using asio::ip::tcp;

using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<tcp, Executor>;
using Acceptor = asio::basic_socket_acceptor<tcp, Executor>;
using TLSStream = asio::ssl::stream<Socket>;

static bool deflate = false;

template <class Stream> class Session;
template <class Stream> using Topics = std::unordered_map<std::string, std::unordered_set<Session<Stream>*>>;

template <class Stream> class Session : public std::enable_shared_from_this<Session<Stream>> {
  public:
    template <class... Arguments>
    Session(Topics<Stream>& topics, Arguments&&... arguments)
        : topics(topics), stream(std::forward<Arguments>(arguments)...) {}

    ~Session() {
        if (subscribed) subscribed->erase(this);
    }

    void start() {
        if constexpr (std::is_same_v<Stream, TLSStream>) {
            stream.next_layer().async_handshake(
                asio::ssl::stream_base::server, [self = this->shared_from_this()](error_code error) {
                    if (!error) self->read_request();
                });
        } else {
            read_request();
        }
    }

  private:
    using Message = std::shared_ptr<const std::string>;

    void read_request() {
        request = std::make_unique<http::request<http::empty_body>>();
        http::async_read(stream.next_layer(), buffer, *request,
                         [self = this->shared_from_this()](error_code error, std::size_t) {
                             if (!error) self->accept();
                         });
    }

    void accept() {
        websocket::permessage_deflate extension;
        extension.server_enable = deflate;
        extension.server_no_context_takeover = true;
        extension.client_no_context_takeover = true;
        // The level that Starling compresses with.
        extension.compLevel = 1;
        stream.set_option(extension);
        stream.read_message_max(1 << 20);
        // One message, one frame, one call.
        stream.auto_fragment(false);
        stream.write_buffer_bytes(8192);
        stream.async_accept(*request, [self = this->shared_from_this()](error_code error) {
            if (!error) self->accepted();
        });
    }

    void accepted() {
        std::string path(request->target());
        request.reset();
        auto& topic = topics[path.substr(path.rfind('/') + 1)];
        if (path.rfind("/subscribe/", 0) == 0) {
            subscribed = &topic;
            topic.insert(this);
            read([](auto&) {});
        } else if (path.rfind("/publish/", 0) == 0) {
            read([&topic](Session& self) {
                auto message = std::make_shared<const std::string>(beast::buffers_to_string(self.buffer.data()));
                bool is_text = self.stream.got_text();
                self.buffer.consume(self.buffer.size());
                for (Session* subscriber : topic) subscriber->send(message, is_text);
            });
        } else {
            echo();
        }
    }

    void echo() {
        stream.async_read(buffer, [self = this->shared_from_this()](error_code error, std::size_t) {
            if (error) return;
            self->stream.text(self->stream.got_text());
            self->stream.async_write(self->buffer.data(), [self](error_code error, std::size_t count) {
                if (error) return;
                self->buffer.consume(count);
                self->echo();
            });
        });
    }

    template <class Received> void read(Received received) {
        stream.async_read(buffer, [self = this->shared_from_this(), received](error_code error, std::size_t) {
            if (error) return;
            received(*self);
            self->buffer.consume(self->buffer.size());
            self->read(received);
        });
    }

    void send(Message message, bool is_text) {
        waiting.push_back(std::move(message));
        stream.text(is_text);
        if (waiting.size() == 1) write();
    }

    void write() {
        stream.async_write(asio::buffer(*waiting.front()),
                           [self = this->shared_from_this()](error_code error, std::size_t) {
                               if (error) return;
                               self->waiting.pop_front();
                               if (!self->waiting.empty()) self->write();
                           });
    }

    Topics<Stream>& topics;
    websocket::stream<Stream> stream;
    beast::flat_buffer buffer;
    std::unique_ptr<http::request<http::empty_body>> request;
    std::unordered_set<Session*>* subscribed = nullptr;
    std::deque<Message> waiting;
};

template <class Stream, class... Arguments>
void accept_all(Acceptor& acceptor, Topics<Stream>& topics, Arguments&... arguments) {
    acceptor.async_accept([&](error_code error, Socket socket) {
        if (!error) {
            socket.set_option(tcp::no_delay(true));
            std::make_shared<Session<Stream>>(topics, std::move(socket), arguments...)->start();
        }
        accept_all(acceptor, topics, arguments...);
    });
}

int main(int count, char** arguments) {
    std::string certificate, key;
    for (int index = 1; index < count; index++) {
        std::string argument = arguments[index];
        if (argument == "--deflate") deflate = true;
        else if (argument == "--certificate" && index + 1 < count) certificate = arguments[++index];
        else if (argument == "--key" && index + 1 < count) key = arguments[++index];
        else {
            std::cerr << "usage: beast-peer [--certificate FILE --key FILE] [--deflate]\n";
            return 2;
        }
    }
    asio::io_context context(1);
    Acceptor acceptor(context, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
    acceptor.listen(4096);
    std::cout << "listening on " << acceptor.local_endpoint().port() << std::endl;

    Topics<Socket> topics;
    Topics<TLSStream> tls_topics;
    asio::ssl::context tls(asio::ssl::context::tls_server);
    if (certificate.empty()) {
        accept_all<Socket>(acceptor, topics);
    } else {
        tls.use_certificate_chain_file(certificate);
        tls.use_private_key_file(key, asio::ssl::context::pem);
        accept_all<TLSStream>(acceptor, tls_topics, tls);
    }
    context.run();
}
