/* Asks a model over the agent's Unix socket: FP32 numbers in, FP32 numbers out, as binary tensors.
 *
 *     cc -O2 -Wall -o infer infer.c
 *     ./infer /run/edge-agent/infer.sock MODEL INPUT 1.5 2 3
 *
 * One request of the Open Inference Protocol v2 by plain sockets; nothing but libc. Tensors are little-endian,
 * as this machine is if it is x86 or ARM. The connection is closed by the server after the answer, so that the
 * answer ends where reading does; an app that asks often leaves "Connection: close" out and reads as many bytes
 * as Content-Length says. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void fail(const char *what) {
    fprintf(stderr, "infer: %s: %s\n", what, errno ? strerror(errno) : "not what an agent answers");
    exit(1);
}

static int connect_to(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    strcpy(address.sun_path, path);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address) < 0) fail(path);
    return sock;
}

static void send_all(int sock, const void *data, size_t size) {
    for (const char *at = data; size > 0;) {
        ssize_t sent = send(sock, at, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) fail("send");
        at += sent;
        size -= (size_t)sent;
    }
}

/* Returns all that comes until the server closes, with a zero byte after it. */
static char *receive_all(int sock, size_t *size) {
    size_t room = 1 << 16;
    char *data = malloc(room);
    for (*size = 0; data != NULL;) {
        ssize_t got = recv(sock, data + *size, room - *size - 1, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("recv");
        if (got == 0) break;
        *size += (size_t)got;
        if (*size + 1 == room) data = realloc(data, room *= 2);
    }
    if (data == NULL) fail("memory");
    data[*size] = '\0';
    return data;
}

/* Returns the number that a header has, or -1. */
static long header(const char *head, const char *name) {
    for (const char *line = head; (line = strstr(line, "\r\n")) != NULL;) {
        line += 2;
        if (strncasecmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            return strtol(line + strlen(name) + 1, NULL, 10);
    }
    return -1;
}

int main(int count, char **words) {
    if (count < 5) {
        fprintf(stderr, "usage: %s SOCKET MODEL INPUT NUMBER...\n", words[0]);
        return 2;
    }
    int numbers = count - 4;
    float *tensor = malloc((size_t)numbers * sizeof *tensor);
    if (tensor == NULL) fail("memory");
    for (int at = 0; at < numbers; at++) tensor[at] = strtof(words[4 + at], NULL);
    size_t tensor_size = (size_t)numbers * sizeof *tensor;

    char json[1024], head[1024];
    int json_size = snprintf(json, sizeof json,
                             "{\"inputs\": [{\"name\": \"%s\", \"datatype\": \"FP32\", \"shape\": [1, %d],"
                             " \"parameters\": {\"binary_data_size\": %zu}}],"
                             " \"parameters\": {\"binary_data_output\": true}}",
                             words[3], numbers, tensor_size);
    int head_size = snprintf(head, sizeof head,
                             "POST /v2/models/%s/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                             "Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n"
                             "Inference-Header-Content-Length: %d\r\n\r\n",
                             words[2], (size_t)json_size + tensor_size, json_size);
    if (json_size >= (int)sizeof json || head_size >= (int)sizeof head) fail("the names are too long");

    int sock = connect_to(words[1]);
    send_all(sock, head, (size_t)head_size);
    send_all(sock, json, (size_t)json_size);
    send_all(sock, tensor, tensor_size);
    size_t size;
    char *answer = receive_all(sock, &size);
    close(sock);

    errno = 0;
    char *body = strstr(answer, "\r\n\r\n");
    if (body == NULL || strncmp(answer, "HTTP/1.1 ", 9) != 0) fail(words[1]);
    *body = '\0'; /* The head ends here, and so does what is searched for headers. */
    body += 4;
    long json_length = header(answer, "Inference-Header-Content-Length");
    long body_length = header(answer, "Content-Length");
    if (body_length < 0 || body_length != answer + (long)size - body) fail("the answer is cut short");
    if (strncmp(answer + 9, "200", 3) != 0 || json_length < 0 || json_length > body_length) {
        /* {"error": "..."} */
        fprintf(stderr, "%s\n", body);
        return 1;
    }
    /* The JSON says name, datatype, shape and size of each output; their bytes follow it in that order. This
     * program knows that there is one, of FP32. */
    printf("%.*s\n", (int)json_length, body);
    for (char *at = body + json_length; at + sizeof(float) <= body + body_length; at += sizeof(float)) {
        float value;
        memcpy(&value, at, sizeof value);
        printf("%g\n", value);
    }
    free(answer);
    free(tensor);
    return 0;
}
