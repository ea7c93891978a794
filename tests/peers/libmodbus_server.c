/* A Modbus server made of libmodbus, as an independent peer of our master.
 *
 *   libmodbus_server tcp          listens on a free port of the loopback
 *   libmodbus_server rtu DEVICE   answers as unit 1 on a serial line
 *
 * Prints "ready PORT" (0 for a serial line). Serves 2000 coils and discrete inputs and 200 registers of each
 * kind, filled as `modbus_peers.rs` says. Takes one client at a time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <modbus.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BITS = 2000, REGISTERS = 200, UNIT = 1 };

static modbus_mapping_t *image(void)
{
    modbus_mapping_t *map = modbus_mapping_new(BITS, BITS, REGISTERS, REGISTERS);
    if (map == NULL)
        return NULL;
    for (int i = 0; i < BITS; i++) {
        map->tab_bits[i] = i % 3 == 0;
        map->tab_input_bits[i] = i % 5 == 0;
    }
    for (int i = 0; i < REGISTERS; i++) {
        map->tab_registers[i] = (uint16_t)(i * 331 + 7);
        map->tab_input_registers[i] = (uint16_t)(i * 257 + 11);
    }
    return map;
}

/* Until the client leaves. A request for another unit (length 0) is not answered. */
static void serve(modbus_t *ctx, modbus_mapping_t *map)
{
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    for (;;) {
        int length = modbus_receive(ctx, query);
        if (length == -1 && errno != EMBBADCRC)
            return;
        if (length > 0)
            modbus_reply(ctx, query, length, map);
    }
}

static void ready(int port)
{
    printf("ready %d\n", port);
    fflush(stdout);
}

static int serve_tcp(modbus_mapping_t *map)
{
    modbus_t *ctx = modbus_new_tcp("127.0.0.1", 0);
    int listener = ctx == NULL ? -1 : modbus_tcp_listen(ctx, 1);
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (listener == -1 || getsockname(listener, (struct sockaddr *)&address, &length) == -1)
        return perror("listen"), 1;
    ready(ntohs(address.sin_port));
    while (modbus_tcp_accept(ctx, &listener) != -1) {
        serve(ctx, map);
        modbus_close(ctx);
    }
    return perror("accept"), 1;
}

static int serve_rtu(const char *device, modbus_mapping_t *map)
{
    modbus_t *ctx = modbus_new_rtu(device, 115200, 'N', 8, 1);
    if (ctx == NULL || modbus_set_slave(ctx, UNIT) == -1 || modbus_connect(ctx) == -1)
        return perror(device), 1;
    ready(0);
    serve(ctx, map);
    return perror("receive"), 1;
}

int main(int argc, char **argv)
{
    modbus_mapping_t *map = image();
    if (map == NULL)
        return perror("mapping"), 1;
    if (argc == 2 && strcmp(argv[1], "tcp") == 0)
        return serve_tcp(map);
    if (argc == 3 && strcmp(argv[1], "rtu") == 0)
        return serve_rtu(argv[2], map);
    fprintf(stderr, "usage: %s tcp | rtu DEVICE\n", argv[0]);
    return 2;
}
