/*
 * What NVM Express 1.4 lays down: registers, queue entries, status codes, data structures. Section
 * numbers are those of "NVM Express Base Specification, Revision 1.4". Integers are little-endian,
 * as on the hosts this runs on.
 */
#ifndef STORAGE_NVME_SPEC_H
#define STORAGE_NVME_SPEC_H

#include "base/bits.h"

/* --- Registers in BAR 0 (3.1) --- */

#define NVME_REG_CAP       0x00   /* 64 bits: capabilities (3.1.1) */
#define NVME_REG_VS        0x08   /* version (3.1.2) */
#define NVME_REG_INTMS     0x0c   /* interrupt mask set (3.1.3) */
#define NVME_REG_INTMC     0x10   /* interrupt mask clear (3.1.4) */
#define NVME_REG_CC        0x14   /* controller configuration (3.1.5) */
#define NVME_REG_CSTS      0x1c   /* controller status (3.1.6) */
#define NVME_REG_AQA       0x24   /* admin queue attributes (3.1.8) */
#define NVME_REG_ASQ       0x28   /* 64 bits: admin submission queue base (3.1.9) */
#define NVME_REG_ACQ       0x30   /* 64 bits: admin completion queue base (3.1.10) */
#define NVME_REG_DOORBELLS 0x1000 /* SQ 0 tail, CQ 0 head, SQ 1 tail... (3.1.24, 3.1.25) */

#define NVME_CAP_CQR          BIT64(16) /* queues are contiguous in memory */
#define NVME_CAP_TO_SHIFT     24        /* 500 ms units */
#define NVME_CAP_CSS_NVM      BIT64(37)
#define NVME_CAP_MPSMAX_SHIFT 52

#define NVME_VERSION 0x00010400u

#define NVME_CC_EN         BIT(0)
#define NVME_CC_CSS(cc)    BITS(cc, 4, 3)
#define NVME_CC_MPS(cc)    BITS(cc, 7, 4) /* memory page size is 2^(12 + MPS) */
#define NVME_CC_AMS(cc)    BITS(cc, 11, 3)
#define NVME_CC_SHN(cc)    BITS(cc, 14, 2) /* 1: normal shutdown, 2: abrupt */
#define NVME_CC_IOSQES(cc) BITS(cc, 16, 4)
#define NVME_CC_IOCQES(cc) BITS(cc, 20, 4)
#define NVME_CC_WRITABLE   0x00fffff1u

#define NVME_CSTS_RDY       BIT(0)
#define NVME_CSTS_CFS       BIT(1)
#define NVME_CSTS_SHST      (3u << 2)
#define NVME_CSTS_SHST_BUSY (1u << 2)
#define NVME_CSTS_SHST_DONE (2u << 2)

#define NVME_AQA_WRITABLE 0x0fff0fffu

/* --- Submission queue entry (4.2) --- */

struct nvme_sqe {
	uint8_t opcode;
	uint8_t flags; /* FUSE in bits 1:0, PSDT in bits 7:6 */
	uint16_t cid;
	uint32_t nsid;
	uint32_t cdw2, cdw3;
	uint64_t mptr;
	uint64_t prp1, prp2; /* or an SGL descriptor (4.4) */
	uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};
static_assert(sizeof(struct nvme_sqe) == 64, "NVMe 1.4, 4.2");
#define NVME_SQE_FUSE(s) BITS((s)->flags, 0, 2)
#define NVME_SQE_PSDT(s) BITS((s)->flags, 6, 2)
#define NVME_SQES        6 /* log2 of its size */

/* Where a field is in the command, for the error log (5.14.1.1). */
#define NVME_AT_FLAGS  offsetof(struct nvme_sqe, flags)
#define NVME_AT_OPCODE offsetof(struct nvme_sqe, opcode)
#define NVME_AT_NSID   offsetof(struct nvme_sqe, nsid)
#define NVME_AT_PRP1   offsetof(struct nvme_sqe, prp1)
#define NVME_AT_PRP2   offsetof(struct nvme_sqe, prp2)
#define NVME_AT_CDW10  offsetof(struct nvme_sqe, cdw10)
#define NVME_AT_CDW11  offsetof(struct nvme_sqe, cdw11)
#define NVME_AT_CDW12  offsetof(struct nvme_sqe, cdw12)
#define NVME_AT_CDW13  offsetof(struct nvme_sqe, cdw13)
#define NVME_AT_CDW14  offsetof(struct nvme_sqe, cdw14)
#define NVME_AT_NONE   0xffff

struct nvme_sgl { /* descriptor (4.4.1) */
	uint64_t addr;
	uint32_t len;
	uint8_t rsvd[3];
	uint8_t id; /* type in bits 7:4, sub type in bits 3:0 */
};
static_assert(sizeof(struct nvme_sgl) == 16, "NVMe 1.4, 4.4.1");
enum {
	NVME_SGL_DATA = 0x00,
	NVME_SGL_BIT_BUCKET = 0x10,
	NVME_SGL_SEGMENT = 0x20,
	NVME_SGL_LAST_SEGMENT = 0x30,
};

struct nvme_dsm_range { /* 6.7.1.1 */
	uint32_t attributes;
	uint32_t blocks;
	uint64_t slba;
};
static_assert(sizeof(struct nvme_dsm_range) == 16, "NVMe 1.4, 6.7.1.1");

/* --- Completion queue entry (4.6) --- */

struct nvme_cqe {
	uint32_t dw0, dw1;
	uint16_t sqhd, sqid;
	uint16_t cid;
	uint16_t status; /* phase tag in bit 0, then the status field */
};
static_assert(sizeof(struct nvme_cqe) == 16, "NVMe 1.4, 4.6");
#define NVME_CQES 4

/* Status field without the phase tag: code in bits 7:0, code type in bits 10:8. */
enum nvme_status {
	/* Generic (4.6.1.2.1) */
	NVME_OK = 0x000,
	NVME_INVALID_OPCODE = 0x001,
	NVME_INVALID_FIELD = 0x002,
	NVME_DATA_TRANSFER_ERROR = 0x004,
	NVME_INTERNAL_ERROR = 0x006,
	NVME_ABORT_REQUESTED = 0x007,
	NVME_ABORTED_SQ_DELETION = 0x008,
	NVME_INVALID_NAMESPACE = 0x00b,
	NVME_SEQUENCE_ERROR = 0x00c,
	NVME_SGL_SEGMENT_INVALID = 0x00d,
	NVME_SGL_COUNT_INVALID = 0x00e,
	NVME_SGL_LENGTH_INVALID = 0x00f,
	NVME_SGL_TYPE_INVALID = 0x011,
	NVME_PRP_OFFSET_INVALID = 0x013,
	NVME_WRITE_PROTECTED = 0x020,
	NVME_LBA_OUT_OF_RANGE = 0x080,
	NVME_CAPACITY_EXCEEDED = 0x081,
	/* Command specific (4.6.1.2.2) */
	NVME_CQ_INVALID = 0x100,
	NVME_QID_INVALID = 0x101,
	NVME_QUEUE_SIZE_INVALID = 0x102,
	NVME_AER_LIMIT_EXCEEDED = 0x105,
	NVME_VECTOR_INVALID = 0x108,
	NVME_LOG_PAGE_INVALID = 0x109,
	NVME_QUEUE_DELETION_INVALID = 0x10c,
	NVME_FEATURE_NOT_SAVEABLE = 0x10d,
	NVME_FEATURE_NOT_CHANGEABLE = 0x10e,
	NVME_FEATURE_NOT_NAMESPACE = 0x10f,
	/* Media and data integrity (4.6.1.2.3) */
	NVME_WRITE_FAULT = 0x280,
	NVME_READ_ERROR = 0x281,
	NVME_COMPARE_FAILURE = 0x285,
	/* Not a status: the command completes later. */
	NVME_PENDING = 0x10000,
};
#define NVME_STATUS_CODE 0x07ffu
#define NVME_STATUS_MORE BIT(13) /* the error log has an entry for it */
#define NVME_STATUS_DNR  BIT(14) /* the same command will fail again */

/* --- Opcodes (5, 6) --- */

enum nvme_admin_opcode {
	NVME_ADMIN_DELETE_SQ = 0x00,
	NVME_ADMIN_CREATE_SQ = 0x01,
	NVME_ADMIN_GET_LOG = 0x02,
	NVME_ADMIN_DELETE_CQ = 0x04,
	NVME_ADMIN_CREATE_CQ = 0x05,
	NVME_ADMIN_IDENTIFY = 0x06,
	NVME_ADMIN_ABORT = 0x08,
	NVME_ADMIN_SET_FEATURES = 0x09,
	NVME_ADMIN_GET_FEATURES = 0x0a,
	NVME_ADMIN_ASYNC_EVENT = 0x0c,
	NVME_ADMIN_DOORBELL_BUFFER = 0x7c,
};

enum nvme_io_opcode {
	NVME_IO_FLUSH = 0x00,
	NVME_IO_WRITE = 0x01,
	NVME_IO_READ = 0x02,
	NVME_IO_WRITE_UNCORRECTABLE = 0x04,
	NVME_IO_COMPARE = 0x05,
	NVME_IO_WRITE_ZEROES = 0x08,
	NVME_IO_DSM = 0x09,
	NVME_IO_VERIFY = 0x0c,
};
#define NVME_RW_FUA  BIT(30) /* CDW12 of read, write... (6.9) */
#define NVME_WZ_DEAC BIT(25) /* CDW12 of write zeroes (6.16) */
#define NVME_DSM_AD  BIT(2)  /* CDW11: deallocate (6.7) */

#define NVME_NSID     1u /* the one namespace */
#define NVME_NSID_ALL 0xffffffffu

/* --- Features (5.21.1) --- */

enum nvme_feature_id {
	NVME_FEATURE_ARBITRATION = 0x01,
	NVME_FEATURE_POWER = 0x02,
	NVME_FEATURE_TEMPERATURE = 0x04,
	NVME_FEATURE_ERROR_RECOVERY = 0x05,
	NVME_FEATURE_WRITE_CACHE = 0x06,
	NVME_FEATURE_QUEUES = 0x07,
	NVME_FEATURE_COALESCING = 0x08,
	NVME_FEATURE_VECTOR = 0x09,
	NVME_FEATURE_ATOMICITY = 0x0a,
	NVME_FEATURE_EVENTS = 0x0b,
	NVME_FEATURE_TIMESTAMP = 0x0e,
	NVME_FEATURE_HOST_BEHAVIOR = 0x16,
};
#define NVME_EVENTS_TEMPERATURE BIT(1) /* of the SMART warnings (5.21.1.11) */
#define NVME_EVENTS_NAMESPACE   BIT(8)
#define NVME_EVENTS_WRITABLE    (0x1fu | NVME_EVENTS_NAMESPACE)
#define NVME_VECTOR_CD          BIT(16) /* no coalescing on this vector (5.21.1.9) */

/* --- Asynchronous events (5.2.1) --- */

enum nvme_event_type { NVME_EVENT_ERROR, NVME_EVENT_SMART, NVME_EVENT_NOTICE, NVME_EVENT_TYPES };
enum { /* information, with the type they belong to */
	NVME_ERROR_DOORBELL_REGISTER = 0x00,
	NVME_ERROR_DOORBELL_VALUE = 0x01,
	NVME_SMART_TEMPERATURE = 0x01,
	NVME_NOTICE_NAMESPACE = 0x00,
};

/* --- Log pages (5.14.1) --- */

enum nvme_log_id {
	NVME_LOG_ERROR = 0x01,
	NVME_LOG_SMART = 0x02,
	NVME_LOG_FIRMWARE = 0x03,
	NVME_LOG_CHANGED_NS = 0x04,
	NVME_LOG_EFFECTS = 0x05,
};

struct nvme_error_entry { /* 5.14.1.1 */
	uint64_t count;   /* 0: no entry */
	uint16_t sqid, cid, status, location;
	uint64_t lba;
	uint32_t nsid;
	uint8_t vendor, trtype;
	uint8_t rsvd30[2];
	uint64_t command_specific;
	uint16_t transport_specific;
	uint8_t rsvd42[22];
};
static_assert(sizeof(struct nvme_error_entry) == 64, "NVMe 1.4, 5.14.1.1");

struct nvme_smart_log { /* 5.14.1.2; 128-bit counters are pairs, low half first */
	uint8_t critical_warning;
	uint8_t temperature[2]; /* kelvins */
	uint8_t available_spare, spare_threshold, percentage_used, group_summary;
	uint8_t rsvd7[25];
	uint64_t data_units_read[2], data_units_written[2]; /* thousands of 512 bytes, rounded up */
	uint64_t host_reads[2], host_writes[2];
	uint64_t busy_minutes[2], power_cycles[2], power_on_hours[2], unsafe_shutdowns[2];
	uint64_t media_errors[2], error_entries[2];
	uint32_t warning_minutes, critical_minutes;
	uint16_t sensor[8];
	uint8_t rsvd216[296];
};
static_assert(sizeof(struct nvme_smart_log) == 512, "NVMe 1.4, 5.14.1.2");

struct nvme_firmware_log { /* 5.14.1.3 */
	uint8_t active;
	uint8_t rsvd1[7];
	char revision[7][8];
	uint8_t rsvd64[448];
};
static_assert(sizeof(struct nvme_firmware_log) == 512, "NVMe 1.4, 5.14.1.3");

struct nvme_effects_log { /* 5.14.1.5 */
	uint32_t admin[256], io[256];
	uint8_t rsvd2048[2048];
};
static_assert(sizeof(struct nvme_effects_log) == 4096, "NVMe 1.4, 5.14.1.5");
#define NVME_EFFECT_SUPPORTED BIT(0)
#define NVME_EFFECT_CONTENT   BIT(1) /* changes logical blocks */

/* --- Identify (5.15) --- */

enum nvme_cns {
	NVME_CNS_NAMESPACE = 0x00,
	NVME_CNS_CONTROLLER = 0x01,
	NVME_CNS_ACTIVE = 0x02,
	NVME_CNS_DESCRIPTORS = 0x03,
	NVME_CNS_ALLOCATED = 0x10,
	NVME_CNS_ALLOCATED_NAMESPACE = 0x11,
	NVME_CNS_ATTACHED = 0x12,
	NVME_CNS_CONTROLLERS = 0x13,
};
#define NVME_IDENTIFY_SIZE 4096

struct nvme_power_state {   /* 5.15.2.2, figure 248 */
	uint16_t max_power; /* centiwatts */
	uint8_t rsvd2[30];
};
static_assert(sizeof(struct nvme_power_state) == 32, "NVMe 1.4, figure 248");

struct nvme_id_controller { /* 5.15.2.2, figure 247 */
	uint16_t vid, ssvid;
	char sn[20], mn[40], fr[8];
	uint8_t rab, ieee[3], cmic, mdts;
	uint16_t cntlid;
	uint32_t ver, rtd3r, rtd3e, oaes, ctratt;
	uint16_t rrls;
	uint8_t rsvd102[9], cntrltype, fguid[16];
	uint16_t crdt[3];
	uint8_t rsvd134[122];
	uint16_t oacs;
	uint8_t acl, aerl, frmw, lpa, elpe, npss, avscc, apsta;
	uint16_t wctemp, cctemp, mtfa;
	uint32_t hmpre, hmmin;
	uint64_t tnvmcap[2], unvmcap[2];
	uint32_t rpmbs;
	uint16_t edstt;
	uint8_t dsto, fwug;
	uint16_t kas, hctma, mntmt, mxtmt;
	uint32_t sanicap, hmminds;
	uint16_t hmmaxd, nsetidmax, endgidmax;
	uint8_t anatt, anacap;
	uint32_t anagrpmax, nanagrpid, pels;
	uint8_t rsvd356[156];
	uint8_t sqes, cqes;
	uint16_t maxcmd;
	uint32_t nn;
	uint16_t oncs, fuses;
	uint8_t fna, vwc;
	uint16_t awun, awupf;
	uint8_t nvscc, nwpc;
	uint16_t acwu, rsvd534;
	uint32_t sgls, mnan;
	uint8_t rsvd544[224];
	char subnqn[256];
	uint8_t rsvd1024[1024];
	struct nvme_power_state psd[32];
	uint8_t vendor[1024];
};
static_assert(offsetof(struct nvme_id_controller, oacs) == 256, "NVMe 1.4, figure 247");
static_assert(offsetof(struct nvme_id_controller, kas) == 320, "NVMe 1.4, figure 247");
static_assert(offsetof(struct nvme_id_controller, sqes) == 512, "NVMe 1.4, figure 247");
static_assert(offsetof(struct nvme_id_controller, sgls) == 536, "NVMe 1.4, figure 247");
static_assert(offsetof(struct nvme_id_controller, psd) == 2048, "NVMe 1.4, figure 247");
static_assert(sizeof(struct nvme_id_controller) == NVME_IDENTIFY_SIZE, "NVMe 1.4, figure 247");
#define NVME_OAES_NAMESPACE     BIT(8)
#define NVME_OACS_DOORBELL      BIT(8)
#define NVME_ONCS_COMPARE       BIT(0)
#define NVME_ONCS_UNCORRECTABLE BIT(1)
#define NVME_ONCS_DSM           BIT(2)
#define NVME_ONCS_WRITE_ZEROES  BIT(3)
#define NVME_ONCS_SELECT        BIT(4)
#define NVME_ONCS_TIMESTAMP     BIT(6)
#define NVME_ONCS_VERIFY        BIT(7)
#define NVME_LPA_EFFECTS        BIT(1)
#define NVME_LPA_EXTENDED       BIT(2)
#define NVME_VWC_PRESENT        BIT(0)
#define NVME_VWC_FLUSH_ALL      (3u << 1) /* flush takes NVME_NSID_ALL */
#define NVME_SGLS_BYTES         BIT(0)    /* SGLs, of any alignment */
#define NVME_SGLS_BIT_BUCKET    BIT(16)
#define NVME_SGLS_LONGER        BIT(18) /* than the data: allowed */

struct nvme_lba_format {
	uint16_t ms;
	uint8_t lbads; /* log2 of the logical block's size */
	uint8_t rp;
};

struct nvme_id_namespace { /* 5.15.2.1, figure 245 */
	uint64_t nsze, ncap, nuse;
	uint8_t nsfeat, nlbaf, flbas, mc, dpc, dps, nmic, rescap, fpi, dlfeat;
	uint16_t nawun, nawupf, nacwu, nabsn, nabo, nabspf, noiob;
	uint64_t nvmcap[2];
	uint16_t npwg, npwa, npdg, npda, nows;
	uint8_t rsvd74[18];
	uint32_t anagrpid;
	uint8_t rsvd96[3], nsattr;
	uint16_t nvmsetid, endgid;
	uint8_t nguid[16], eui64[8];
	struct nvme_lba_format lbaf[16];
	uint8_t rsvd192[192], vendor[3712];
};
static_assert(offsetof(struct nvme_id_namespace, npwg) == 64, "NVMe 1.4, figure 245");
static_assert(offsetof(struct nvme_id_namespace, eui64) == 120, "NVMe 1.4, figure 245");
static_assert(sizeof(struct nvme_id_namespace) == NVME_IDENTIFY_SIZE, "NVMe 1.4, figure 245");
#define NVME_NSFEAT_OPTIMAL   BIT(4) /* NPWG to NOWS are there */
#define NVME_DLFEAT_ZEROS     1u     /* deallocated blocks read as zeros */
#define NVME_DLFEAT_DEAC      BIT(3) /* write zeroes can deallocate */
#define NVME_NSATTR_PROTECTED BIT(0)

#define NVME_NIDT_EUI64 1 /* namespace identifier types (figure 246) */
#define NVME_NIDT_UUID  3

#endif
